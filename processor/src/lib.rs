//! Processor: one job from event to commit. [`run`] reads as the story; each stage has its file.

pub mod decode;
