//! What is known of sessions and nodes only by hearing from them: never
//! written down, begun anew at each start. metad's own downtime therefore
//! never counts against anybody.

pub mod healing;
pub mod leases;
pub mod nodes;
pub mod sessions;
pub mod waits;
