mod failover;
mod membership;
mod offsets;
mod scale;
mod sim;
mod static_members;
mod support;
mod writes;
