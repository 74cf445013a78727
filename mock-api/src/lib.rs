//! The ad platform, mocked.
