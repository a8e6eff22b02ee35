mod golden;
mod properties;
mod sparse;
