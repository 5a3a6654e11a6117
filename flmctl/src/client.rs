//! The connection to the session manager: its calls with errors that say what we were doing.

use std::error::Error;
use std::future::Future;

use flame_core::config::ClientConfig;
use flame_rpc::channel::{self, ChannelError};
use flame_rpc::oversize;
use flame_rpc::v1::{
    self, admin_client::AdminClient, control_client::ControlClient, frontend_client::FrontendClient,
};
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};

use crate::error::CtlError;

/// A connected client.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    frontend: FrontendClient<Channel>,
    admin: AdminClient<Channel>,
    control: ControlClient<Channel>,
    endpoint: String,
}

impl Client {
    /// Connects to the endpoint of `config`.
    pub(crate) async fn connect(config: &ClientConfig) -> Result<Self, CtlError> {
        let endpoint = config.endpoint.url();
        let connected = channel::connect(&endpoint, config.ca_file.as_deref()).await;
        let channel = connected.map_err(|error| match error {
            ChannelError::Connect { endpoint, source } => CtlError::Unreachable {
                endpoint,
                reason: innermost(&source),
            },
            other if other.source().is_some() => CtlError::Channel(format!("{other}: {}", innermost(&other))),
            other => CtlError::Channel(other.to_string()),
        })?;
        let admin = AdminClient::new(channel.clone());
        let control = ControlClient::new(channel.clone()).max_decoding_message_size(oversize::MAX_ANSWER);
        let frontend = FrontendClient::new(channel)
            .max_decoding_message_size(oversize::MAX_ANSWER)
            // What is too much is said by the session manager, which knows its limit.
            .max_encoding_message_size(usize::MAX);
        Ok(Self {
            frontend,
            admin,
            control,
            endpoint,
        })
    }

    /// Waits for `call`; its failure becomes "cannot `action`: ...".
    async fn request<T>(
        &self,
        action: impl Into<String>,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CtlError> {
        let answer = call.await;
        answer
            .map(Response::into_inner)
            .map_err(|status| self.failed(action.into(), &status))
    }

    /// What a status means for the user.
    pub(crate) fn failed(&self, action: String, status: &Status) -> CtlError {
        // A status with a source was made on this side: the connection broke.
        let broke = status.source().is_some() && matches!(status.code(), Code::Unknown | Code::Internal);
        // UNAVAILABLE without a source is the session manager's own word, e.g. that its disk is full.
        if broke || (status.code() == Code::Unavailable && status.source().is_some()) {
            let reason = status
                .source()
                .map_or_else(|| status.message().to_owned(), innermost);
            return CtlError::Unreachable {
                endpoint: self.endpoint.clone(),
                reason,
            };
        }
        let status = oversize::in_answer(status).unwrap_or_else(|| status.clone());
        let message = match status.message() {
            "" => format!("the session manager answered {:?}", status.code()),
            message => message.to_owned(),
        };
        CtlError::Request {
            action,
            code: status.code(),
            message,
        }
    }

    pub(crate) async fn applications(&self) -> Result<Vec<v1::Application>, CtlError> {
        let mut frontend = self.frontend.clone();
        let call = frontend.list_application(v1::ListApplicationRequest {});
        Ok(self.request("list applications", call).await?.applications)
    }

    pub(crate) async fn application(&self, name: &str) -> Result<v1::Application, CtlError> {
        let mut frontend = self.frontend.clone();
        let call = frontend.get_application(v1::GetApplicationRequest {
            name: name.to_owned(),
        });
        self.request(format!("get application {name:?}"), call).await
    }

    pub(crate) async fn register(&self, name: &str, spec: v1::ApplicationSpec) -> Result<(), CtlError> {
        let mut frontend = self.frontend.clone();
        let request = v1::RegisterApplicationRequest {
            name: name.to_owned(),
            application: Some(spec),
        };
        let action = format!("register application {name:?}");
        let result = self
            .request(&action, frontend.register_application(request))
            .await?;
        accepted(action, result)
    }

    pub(crate) async fn update(&self, name: &str, spec: v1::ApplicationSpec) -> Result<(), CtlError> {
        let mut frontend = self.frontend.clone();
        let request = v1::UpdateApplicationRequest {
            name: name.to_owned(),
            application: Some(spec),
        };
        let action = format!("update application {name:?}");
        let result = self
            .request(&action, frontend.update_application(request))
            .await?;
        accepted(action, result)
    }

    pub(crate) async fn unregister(&self, name: &str) -> Result<(), CtlError> {
        let mut frontend = self.frontend.clone();
        let request = v1::UnregisterApplicationRequest {
            name: name.to_owned(),
        };
        let action = format!("unregister application {name:?}");
        let result = self
            .request(&action, frontend.unregister_application(request))
            .await?;
        accepted(action, result)
    }

    pub(crate) async fn sessions(&self) -> Result<Vec<v1::Session>, CtlError> {
        let mut frontend = self.frontend.clone();
        let call = frontend.list_session(v1::ListSessionRequest {});
        Ok(self.request("list sessions", call).await?.sessions)
    }

    pub(crate) async fn session(&self, id: &str) -> Result<v1::Session, CtlError> {
        let mut frontend = self.frontend.clone();
        let call = frontend.get_session(v1::GetSessionRequest {
            session_id: id.to_owned(),
        });
        self.request(format!("get session {id:?}"), call).await
    }

    pub(crate) async fn create_session(
        &self,
        request: v1::CreateSessionRequest,
    ) -> Result<v1::Session, CtlError> {
        let mut frontend = self.frontend.clone();
        let application = request
            .session
            .as_ref()
            .map_or("", |spec| spec.application.as_str());
        let action = format!(
            "create session {:?} of application {application:?}",
            request.session_id
        );
        self.request(action, frontend.create_session(request)).await
    }

    pub(crate) async fn close_session(&self, id: &str) -> Result<v1::Session, CtlError> {
        let mut frontend = self.frontend.clone();
        let call = frontend.close_session(v1::CloseSessionRequest {
            session_id: id.to_owned(),
        });
        self.request(format!("close session {id:?}"), call).await
    }

    pub(crate) async fn delete_session(&self, id: &str) -> Result<v1::Session, CtlError> {
        let mut frontend = self.frontend.clone();
        let call = frontend.delete_session(v1::DeleteSessionRequest {
            session_id: id.to_owned(),
        });
        self.request(format!("delete session {id:?}"), call).await
    }

    pub(crate) async fn tasks(&self, session: &str) -> Result<Vec<v1::Task>, CtlError> {
        let mut frontend = self.frontend.clone();
        let action = format!("list the tasks of session {session:?}");
        let call = frontend.list_task(v1::ListTaskRequest {
            session_id: session.to_owned(),
        });
        let mut stream = self.request(&action, call).await?;
        let mut tasks = Vec::new();
        while let Some(task) = stream
            .message()
            .await
            .map_err(|status| self.failed(action.clone(), &status))?
        {
            tasks.push(task);
        }
        Ok(tasks)
    }

    pub(crate) async fn task(&self, session: &str, id: &str) -> Result<v1::Task, CtlError> {
        let mut frontend = self.frontend.clone();
        let request = v1::GetTaskRequest {
            task_id: id.to_owned(),
            session_id: session.to_owned(),
        };
        let action = format!("get task {id:?} of session {session:?}");
        self.request(action, frontend.get_task(request)).await
    }

    pub(crate) async fn create_task(&self, spec: v1::TaskSpec) -> Result<v1::Task, CtlError> {
        let mut frontend = self.frontend.clone();
        let action = format!("create a task in session {:?}", spec.session_id);
        let call = frontend.create_task(v1::CreateTaskRequest { task: Some(spec) });
        self.request(action, call).await
    }

    pub(crate) async fn watch_task(&self, session: &str, id: &str) -> Result<Streaming<v1::Task>, CtlError> {
        let mut frontend = self.frontend.clone();
        let request = v1::WatchTaskRequest {
            task_id: id.to_owned(),
            session_id: session.to_owned(),
        };
        let action = format!("watch task {id:?} of session {session:?}");
        self.request(action, frontend.watch_task(request)).await
    }

    pub(crate) async fn nodes(&self) -> Result<Vec<v1::Node>, CtlError> {
        let mut frontend = self.frontend.clone();
        let call = frontend.list_nodes(v1::ListNodesRequest {});
        Ok(self.request("list nodes", call).await?.nodes)
    }

    pub(crate) async fn node(&self, name: &str) -> Result<v1::Node, CtlError> {
        let mut frontend = self.frontend.clone();
        let call = frontend.get_node(v1::GetNodeRequest {
            name: name.to_owned(),
        });
        let answer = self.request(format!("get node {name:?}"), call).await?;
        answer.node.ok_or_else(|| CtlError::Request {
            action: format!("get node {name:?}"),
            code: Code::NotFound,
            message: "the session manager answered without a node".to_owned(),
        })
    }

    pub(crate) async fn backup(&self) -> Result<Streaming<v1::BackupPart>, CtlError> {
        let mut admin = self.admin.clone();
        self.request("back up the state", admin.backup(v1::BackupRequest {}))
            .await
    }

    pub(crate) async fn cancel_session(&self, id: &str) -> Result<v1::Session, CtlError> {
        let mut control = self.control.clone();
        let call = control.cancel_session(v1::CancelSessionRequest {
            session_id: id.to_owned(),
            reason: None,
        });
        self.request(format!("cancel and close session {id:?}"), call)
            .await
    }

    /// False if it was cancelled before.
    pub(crate) async fn cancel_task(
        &self,
        session: &str,
        id: &str,
        reason: Option<String>,
    ) -> Result<bool, CtlError> {
        let mut control = self.control.clone();
        let call = control.cancel_task(v1::CancelTaskRequest {
            session_id: session.to_owned(),
            task_id: id.to_owned(),
            reason,
        });
        let action = format!("cancel task {id:?} of session {session:?}");
        Ok(self.request(action, call).await?.changed)
    }

    /// How many there were.
    pub(crate) async fn cancel_tasks(&self, session: &str, reason: Option<String>) -> Result<u64, CtlError> {
        let mut control = self.control.clone();
        let call = control.cancel_tasks(v1::CancelTasksRequest {
            session_id: session.to_owned(),
            reason,
        });
        let action = format!("cancel the tasks of session {session:?}");
        Ok(self.request(action, call).await?.cancelled)
    }

    pub(crate) async fn explain(&self, session: &str) -> Result<v1::ExplainSessionResponse, CtlError> {
        let mut control = self.control.clone();
        let call = control.explain_session(v1::ExplainSessionRequest {
            session_id: session.to_owned(),
        });
        self.request(format!("explain session {session:?}"), call).await
    }

    pub(crate) async fn read_logs(
        &self,
        action: &str,
        request: v1::ReadLogsRequest,
    ) -> Result<Streaming<v1::LogLines>, CtlError> {
        let mut control = self.control.clone();
        self.request(action, control.read_logs(request)).await
    }

    pub(crate) async fn cordon_node(
        &self,
        name: &str,
        drain: bool,
        reason: Option<String>,
    ) -> Result<v1::Node, CtlError> {
        let mut control = self.control.clone();
        let request = v1::CordonNodeRequest {
            name: name.to_owned(),
            reason,
        };
        if drain {
            self.request(format!("drain node {name:?}"), control.drain_node(request))
                .await
        } else {
            self.request(format!("cordon node {name:?}"), control.cordon_node(request))
                .await
        }
    }

    pub(crate) async fn uncordon_node(&self, name: &str) -> Result<(), CtlError> {
        let mut control = self.control.clone();
        let call = control.uncordon_node(v1::NodeRequest {
            name: name.to_owned(),
        });
        self.request(format!("uncordon node {name:?}"), call)
            .await
            .map(drop)
    }

    pub(crate) async fn forget_node(&self, name: &str) -> Result<(), CtlError> {
        let mut control = self.control.clone();
        let call = control.forget_node(v1::NodeRequest {
            name: name.to_owned(),
        });
        self.request(format!("forget node {name:?}"), call)
            .await
            .map(drop)
    }

    pub(crate) async fn executors(&self) -> Result<Vec<v1::Executor>, CtlError> {
        let mut frontend = self.frontend.clone();
        let call = frontend.list_executor(v1::ListExecutorRequest {});
        Ok(self.request("list executors", call).await?.executors)
    }
}

/// The registry's refusals come inside the answer.
fn accepted(action: String, result: v1::Result) -> Result<(), CtlError> {
    if result.return_code == 0 {
        return Ok(());
    }
    let message = match result.message {
        Some(message) if !message.is_empty() => message,
        _ => format!("the session manager answered code {}", result.return_code),
    };
    Err(CtlError::Refused { action, message })
}

/// The last error of a chain, which names the cause ("Connection refused").
fn innermost(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
