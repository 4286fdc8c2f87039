//! HTTP/2 of the client port: connections, their calls, and the bytes of calls on their way in.
//!
//! Like hyper's server, but a sender's window opens as its bytes are used and not as they are
//! received. What gRPC means by them does not belong here.

mod inbox;
mod server;
mod unread;

pub use server::serve;
