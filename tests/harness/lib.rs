//! Plumbing of the tests: processes, sockets, the lab. It hides plumbing, never inputs.
