//! HTTP/1.1 framing (RFC 9112), strictly: one way to read a message, or none.

pub(crate) mod chunked;
pub(crate) mod head;
pub(crate) mod reply;
