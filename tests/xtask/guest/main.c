/* Runs the Lua program that is named first, with the other words as its arguments. */
#include <stdio.h>
#include "lua.h"
#include "lauxlib.h"
#include "lualib.h"

int main(int argc, char **argv) {
    lua_State *lua = luaL_newstate();
    if (lua == NULL || argc < 2)
        return 2;
    luaL_openlibs(lua);
    int failed = luaL_loadfile(lua, argv[1]);
    for (int n = 2; !failed && n < argc; n++)
        lua_pushstring(lua, argv[n]);
    if (failed || lua_pcall(lua, argc - 2, 0, 0)) {
        fprintf(stderr, "%s\n", lua_tostring(lua, -1));
        return 1;
    }
    lua_close(lua);
    return 0;
}
