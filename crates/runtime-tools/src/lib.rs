//! The contract of a tool: typed functions, tool sources, approval policy.
