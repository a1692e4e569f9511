//! QMP: the JSON socket by which operators and tools steer the machine.
//!
//! Spec: QEMU docs/interop/qmp-spec.rst. docs/qmp.md lists every command and event with an example.
//!
//! | File | Question it answers |
//! |---|---|
//! | `server` | who is connected, which thread does what |
//! | `connection` | what one client may do when |
//! | `pace` | how many commands run in a second |
//! | `commands` | what each command takes, gives and calls |
//! | `arguments` | is an argument there, of the right type, and nothing else |
//! | `machine` | what the commands need of the machine |
//! | `shapes`, `schema` | what introspection answers |
//! | `events` | what clients are told unasked |
//! | `envelope`, `json_text` | what a request is |
//! | `errors` | the text and class of every error |
//! | `json_stream` | where a request ends, and what happens after one that is none |

pub mod server;
mod connection;
mod pace;
pub mod commands;
mod arguments;
pub(crate) mod shapes;
pub mod machine;
pub mod events;
mod schema;
mod envelope;
mod json_text;
pub mod errors;
mod json_stream;
