//! Joins the crates: the driver and the command line.
