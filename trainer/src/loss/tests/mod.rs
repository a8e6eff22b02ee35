mod golden;
mod properties;
mod sparse;
mod universal_logit;
