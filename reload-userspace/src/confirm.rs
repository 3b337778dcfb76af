//! Did it take?
