//! Types, ops, text form, verifier and reference evaluator
