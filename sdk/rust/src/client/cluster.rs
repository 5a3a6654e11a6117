//! What the cluster consists of: nodes and executors.

use flame_rpc::v1;

use super::Client;
use crate::error::Error;

impl Client {
    /// All nodes, also those that are not ready.
    ///
    /// # Errors
    /// [`Error::Rpc`] and [`Error::Lost`].
    pub async fn list_nodes(&self) -> Result<Vec<v1::Node>, Error> {
        let call = || {
            let mut frontend = self.frontend();
            async move { frontend.list_nodes(v1::ListNodesRequest {}).await }
        };
        Ok(self.repeat(|| "list the nodes".to_owned(), call).await?.nodes)
    }

    /// Node `name`; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Rpc`] and [`Error::Lost`].
    pub async fn get_node(&self, name: &str) -> Result<Option<v1::Node>, Error> {
        let request = v1::GetNodeRequest {
            name: name.to_owned(),
        };
        let call = || {
            let (mut frontend, request) = (self.frontend(), request.clone());
            async move { frontend.get_node(request).await }
        };
        match self.repeat(|| format!("get node {name}"), call).await {
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
        let call = || {
            let mut frontend = self.frontend();
            async move { frontend.list_executor(v1::ListExecutorRequest {}).await }
        };
        Ok(self
            .repeat(|| "list the executors".to_owned(), call)
            .await?
            .executors)
    }
}
