//! The `tersor` command.

fn main() {}
