//! Loads and runs artifacts; knows no compiler
