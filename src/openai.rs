//! openai: to be filled
