//! The command line as a user runs it: real processes, real files, real kills.

mod catalogue;
mod command_line;
mod crash_points;
mod database;
mod kills;
mod processes;
mod refusals;
