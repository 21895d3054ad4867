//! Tests of the model contract and of the scripted model.

mod scripted;
