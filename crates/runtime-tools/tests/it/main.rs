//! Tests of the tool contract.

#[cfg(feature = "schemars")]
mod function;
mod toolbox;
