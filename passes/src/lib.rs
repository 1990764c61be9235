//! Pass manager, exact rules, compression passes
