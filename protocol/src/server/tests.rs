//! Tests of the server's side.
