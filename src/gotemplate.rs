//! gotemplate: to be filled
