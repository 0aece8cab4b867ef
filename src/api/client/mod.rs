//! The Client-Server API: one file for each of the specification's `data/api/client-server/*.yaml`, one function for each
//! of its operations, named alike.
