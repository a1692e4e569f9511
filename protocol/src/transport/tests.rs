//! Transport tests are added with the next commits.
