//! What leaves the server by itself (`src/delivery`).

mod servers;
