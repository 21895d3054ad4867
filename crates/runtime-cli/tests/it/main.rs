//! The command line as a user runs it: real processes, real files, real kills.

mod catalogue;
mod command_line;
mod configuration;
mod copy;
mod crash_points;
mod database;
mod doctor;
mod every_command;
#[cfg(feature = "genai")]
mod kept_servers;
mod kills;
mod processes;
#[cfg(feature = "genai")]
mod real_model;
mod refusals;
#[cfg(feature = "genai")]
mod rounds;
mod store_care;
mod terminal;
mod told;
#[cfg(feature = "genai")]
mod tool_servers;
