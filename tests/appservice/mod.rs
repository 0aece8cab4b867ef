//! Application services: who they may be, what they may do, and what they are told.

mod acting;
mod fake;
mod federated;
mod lookup;
mod registrations;
mod transactions;
