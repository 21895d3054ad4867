//! Laws for every contract, simulated clock and store, fault injection.
