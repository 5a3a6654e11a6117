//! What the cluster consists of: nodes and executors.

use flame_rpc::v1;

use super::{Client, took};
use crate::error::Error;

impl Client {
    /// All nodes, also those that are not ready.
    ///
    /// # Errors
    /// [`Error::Rpc`] and [`Error::Lost`].
    pub async fn list_nodes(&self) -> Result<Vec<v1::Node>, Error> {
        let answer = self.frontend().list_nodes(v1::ListNodesRequest {}).await;
        Ok(took(answer, || "list the nodes".to_owned())?.nodes)
    }

    /// Node `name`; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Rpc`] and [`Error::Lost`].
    pub async fn get_node(&self, name: &str) -> Result<Option<v1::Node>, Error> {
        let request = v1::GetNodeRequest {
            name: name.to_owned(),
        };
        match took(self.frontend().get_node(request).await, || {
            format!("get node {name}")
        }) {
            Ok(answer) => Ok(answer.node),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All executors.
    ///
    /// # Errors
    /// [`Error::Rpc`] and [`Error::Lost`].
    pub async fn list_executors(&self) -> Result<Vec<v1::Executor>, Error> {
        let answer = self.frontend().list_executor(v1::ListExecutorRequest {}).await;
        Ok(took(answer, || "list the executors".to_owned())?.executors)
    }
}
