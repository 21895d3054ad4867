//! The command line of the durable agent runtime.

mod agents;
mod answer;
mod args;
mod catalogue;
mod config;
mod copy;
mod crash;
mod database;
mod demo_agent;
mod doctor;
mod exit;
mod follow;
mod inspect;
mod interrupt;
mod ledger;
mod manual;
mod mcp_server;
mod open;
mod output;
mod processes;
mod provider;
mod store_care;
mod style;
#[cfg(feature = "otel")]
mod telemetry;
mod terminal;
mod tool_servers;
mod tools;
mod watch;
mod work;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use runtime::RuntimeError;
use runtime::core::{ErrorClass, WireError};
use runtime::workers::Command as RuntimeCommand;

use crate::args::{Arguments, Command, Common, ConfigAction, Flags};
use crate::config::Configuration;
use crate::exit::Exit;
use crate::output::Output;
use crate::style::ColourChoice;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let output = Output::new(arguments.flags.json, arguments.flags.color);
    #[cfg(feature = "otel")]
    let telemetry = telemetry::Telemetry::start();
    let executed = execute(arguments, output).await;
    #[cfg(feature = "otel")]
    telemetry.close().await;
    let exit = match executed {
        Ok(exit) => exit,
        Err(error) => {
            output.error(&output::wire(&error));
            if open::is_busy(&error) {
                Exit::Busy
            } else {
                Exit::Error
            }
        }
    };
    ExitCode::from(exit)
}

/// Prints what clap says of the arguments, as JSON if they ask so: nothing else has been read yet.
fn usage(error: &clap::Error) -> ExitCode {
    let words = std::env::args_os().take_while(|word| word != "--");
    if error.use_stderr() && words.into_iter().any(|word| word == "--json") {
        let message = error.to_string();
        let message = message.trim().trim_start_matches("error: ");
        let error = WireError::new("command_usage", ErrorClass::Invalid, message.to_owned());
        Output::new(true, ColourChoice::Never).error(&error);
    } else {
        // The stream may be closed; there is nobody left to tell.
        let _ = error.print();
    }
    // 0 for help and version, 2 for everything else.
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Reads the configuration.
fn common(flags: Flags) -> anyhow::Result<Common> {
    let store = flags.store;
    let flags = config::Flags {
        file: flags.config,
        directory: flags.dir,
        model: flags.model,
        set: flags.set,
    };
    let configuration = Configuration::load(&flags, config::environment()?)?;
    Ok(Common {
        dir: configuration.directory(),
        store: store.or_else(|| configuration.settings.store.url.clone()),
        configuration: Arc::new(configuration),
    })
}

async fn execute(arguments: Arguments, output: Output) -> anyhow::Result<Exit> {
    // What needs no configuration works with a wrong one too.
    match &arguments.command {
        Command::McpServer => {
            mcp_server::serve().await?;
            return Ok(Exit::Done);
        }
        Command::Completions { shell } => return manual::completions(output, *shell),
        Command::Man { all } => return manual::man(output, all.as_deref()),
        Command::Doctor => return Ok(doctor::doctor(arguments.flags, output).await),
        _ => {}
    }
    let common = &common(arguments.flags)?;
    let command = match arguments.command {
        Command::Demo {
            yes,
            crash_at,
            patience,
        } => {
            let demo = work::Demo {
                yes,
                crash_at,
                patience,
            };
            return work::demo(common, output, demo).await;
        }
        Command::Run {
            worker,
            text,
            submission,
            patience,
        } => {
            let submission = submission.as_deref();
            return work::run(common, output, &worker, &text, submission, patience).await;
        }
        Command::Resume { patience } => return work::resume(common, output, patience).await,
        Command::Workers => return inspect::workers(common, output).await,
        Command::Show { worker } => return inspect::show(common, output, &worker).await,
        Command::Tail {
            worker,
            from,
            cursors,
            follow,
        } => {
            let tail = inspect::Tail {
                worker,
                from,
                cursors,
                follow,
            };
            return inspect::tail(common, output, tail).await;
        }
        Command::Tools => return tools::tools(common, output).await,
        Command::ApproveTool {
            server,
            tool,
            digest,
        } => return tools::approve(common, output, server, tool, &digest).await,
        Command::Pending => return inspect::pending(common, output).await,
        Command::Watch { once } => return watch::watch(common, output, once).await,
        Command::Verify => return store_care::verify(common, output),
        Command::Export { file } => return store_care::export(common, output, &file),
        Command::Import { file } => return store_care::import(common, output, &file),
        Command::Backup { target } => return store_care::backup(common, output, &target),
        Command::Copy { from, to } => return copy::copy(output, &from, &to).await,
        Command::Repair { apply, .. } => return store_care::repair(common, output, apply),
        Command::Retention {
            age_days,
            events,
            bytes,
            dry_run,
        } => {
            let policy = store_care::policy(age_days, events, bytes);
            return store_care::retention(common, output, policy, dry_run).await;
        }
        Command::Purge { worker, yes } => {
            return store_care::purge(common, output, &worker, yes).await;
        }
        Command::Transcript {
            worker,
            start,
            limit,
        } => return catalogue::transcript(common, output, &worker, start, limit).await,
        Command::Status => return catalogue::status(common, output).await,
        Command::Diagnostics { worker } => {
            return catalogue::diagnostics(common, output, worker.as_deref()).await;
        }
        Command::Worker { command } => command.into_command()?,
        Command::Processes { all } => return processes::processes(common, output, all).await,
        Command::Process { command } => match processes::process(common, output, command).await? {
            Ok(exit) => return Ok(exit),
            Err(command) => command,
        },
        Command::Stop { reason } => RuntimeCommand::StopRuntime { reason },
        Command::Reopen => RuntimeCommand::ReopenRuntime,
        Command::Postgres { command } => return database::run(output, &command),
        Command::Config { action } => {
            let configuration = &common.configuration;
            return match action {
                ConfigAction::Check => config::check(configuration, &common.dir, output),
                ConfigAction::Show => config::show(configuration, &common.dir, output),
            };
        }
        Command::McpServer
        | Command::Completions { .. }
        | Command::Man { .. }
        | Command::Doctor => {
            unreachable!("done above, without a configuration")
        }
        Command::Approve { target, arguments } => answer::approve(target, arguments.as_deref())?,
        Command::Deny { target, reason } => {
            let decision = runtime::turn::ApprovalDecision::Deny { reason };
            RuntimeCommand::Decide { target, decision }
        }
        Command::Resolve { token, value } => answer::resolve(token, &value)?,
        Command::InDoubt { call, ruling } => answer::in_doubt(call, ruling)?,
        Command::Conflict { effect, ruling } => answer::conflict(effect, ruling),
        Command::Cancel { worker, reason } => {
            let worker = worker.parse().map_err(RuntimeError::from)?;
            RuntimeCommand::CancelWorker { worker, reason }
        }
    };
    answer::carry_out(common, output, command).await
}
