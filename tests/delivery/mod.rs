//! What leaves the server by itself (`src/delivery`).

mod gateways;
mod servers;
