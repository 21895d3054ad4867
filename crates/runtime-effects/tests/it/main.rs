//! The laws of effects and promises (E1–E14), on every store of the table below.

/// Makes one test for each law, on each store.
macro_rules! laws {
    ($($law:ident),* $(,)?) => {
        mod on_memory {
            $(
                #[tokio::test]
                async fn $law() {
                    super::$law($crate::support::memory()).await;
                }
            )*
        }
    };
}

mod batch;
mod crash;
mod effect;
mod owner;
mod promise;
mod ruling;
mod shared;
mod support;
mod token;
mod wait;
