//! A discovery cache: fresh, stale, negative and blocked answers, one fetch for all callers.
