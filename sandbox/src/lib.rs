//! How a process is started with an explicit set of file descriptors and how it loses power.
