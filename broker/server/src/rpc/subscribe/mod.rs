//! `Messaging.Subscribe`: a consumer group for applications with nothing but stubs. The broker that has the stream is
//! the member, wherever the group is coordinated and its partitions are led.
//!
//! ```text
//!  subscriber <==> serve --heartbeats--> rpc/groups --> coordinator
//!                   |  ^--messages-- Feed <-- Source (here, or its leader)
//!                   |- Member (what it has; millrace-member)
//!                   `- Flow (what it was sent, and has processed)
//! ```
//! Both are steps without clock and IO. A stream that breaks is no word about the subscriber: the member stays for its
//! session time, and the next stream with its token is that member.

mod begin;
mod commands;
mod commit;
mod epochs;
mod feed;
mod flow;
mod messages;
mod open;
mod serve;
mod session;
mod token;

pub use serve::serve;

#[cfg(test)]
mod tests;
