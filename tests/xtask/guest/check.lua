-- Sorts numbers from a generator (SEED COUNT) and prints the SHA-256 (FIPS 180-4) of their
-- list: it takes every kind of thing that an interpreter does, and anybody can check it.
local seed, count = ...
local K, H = {}, {}
local n = 2
while #K < 64 do
    local prime = true
    for d = 2, math.floor(n ^ 0.5) do prime = prime and n % d ~= 0 end
    if prime then
        -- The first 32 bits of the fractional part of a root; a float has 53.
        local function root(power)
            local low, high = 0, 1 << 40
            while high - low > 1 do
                local middle = (low + high) // 2
                if (middle / 4294967296.0) ^ power <= n then low = middle else high = middle end
            end
            return low & 0xffffffff
        end
        if #H < 8 then H[#H + 1] = root(2) end
        K[#K + 1] = root(3)
    end
    n = n + 1
end

local function rotate(x, by) return (x >> by | x << 32 - by) & 0xffffffff end

local function sha256(text)
    local length = #text
    text = text .. "\128" .. ("\0"):rep(-(length + 9) % 64) .. string.pack(">I8", length * 8)
    local h = table.move(H, 1, 8, 1, {})
    for at = 1, #text, 64 do
        local w = { string.unpack(">I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4", text, at) }
        for i = 17, 64 do
            local a, b = w[i - 15], w[i - 2]
            local s0 = rotate(a, 7) ~ rotate(a, 18) ~ a >> 3
            local s1 = rotate(b, 17) ~ rotate(b, 19) ~ b >> 10
            w[i] = (w[i - 16] + s0 + w[i - 7] + s1) & 0xffffffff
        end
        local a, b, c, d, e, f, g, i = table.unpack(h)
        for t = 1, 64 do
            local s1 = rotate(e, 6) ~ rotate(e, 11) ~ rotate(e, 25)
            local one = i + s1 + (e & f ~ ~e & g) + K[t] + w[t]
            local s0 = rotate(a, 2) ~ rotate(a, 13) ~ rotate(a, 22)
            local two = s0 + (a & b ~ a & c ~ b & c)
            i, g, f, e = g, f, e, (d + one) & 0xffffffff
            d, c, b, a = c, b, a, (one + two) & 0xffffffff
        end
        for k, v in ipairs { a, b, c, d, e, f, g, i } do h[k] = (h[k] + v) & 0xffffffff end
    end
    return (("%08x"):rep(8):format(table.unpack(h)))
end

local x, list = tonumber(seed), {}
for i = 1, tonumber(count) do
    x = (x * 1103515245 + 12345) % 2147483648
    list[i] = x
end
table.sort(list)
print(seed, sha256(table.concat(list, "\n")))
