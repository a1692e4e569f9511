//! Eventfds that a client sent: telling them from other file descriptors, and firing them without blocking.
