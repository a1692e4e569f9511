//! Bad input: each is refused with one line on stderr that says what to do, in time, and nothing is left behind.

mod command_line;
mod files;
mod sockets;
mod devices;
