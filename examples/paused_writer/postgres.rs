//! The account in a table of PostgreSQL: the comparison is one condition in the statement that writes.

use std::{num::NonZeroU64, sync::Arc};

use redlock_redis_rs::async_trait;
use tokio_postgres::{Client, NoTls, types::ToSql};

use crate::{
    account::{Account, Refused},
    story::{Failed, unique},
};

/// A table of its own, for one run.
pub(crate) struct Table {
    url: String,
    name: String,
}

impl Table {
    pub(crate) async fn create(url: &str) -> Result<Self, Failed> {
        let name = unique("paused_writer");
        let columns = "id text PRIMARY KEY, balance bigint NOT NULL, fence bigint NOT NULL DEFAULT 0";
        connect(url).await?.batch_execute(&format!("CREATE TABLE {name} ({columns})")).await?;
        Ok(Self { url: url.to_owned(), name })
    }

    /// Adds an account, and returns the access of two clients, each with a connection of its own.
    pub(crate) async fn account(&self, balance: i64, fenced: bool) -> Result<[Arc<dyn Account>; 2], Failed> {
        let id = if fenced { "fenced" } else { "plain" };
        let insert = format!("INSERT INTO {} (id, balance) VALUES ($1, $2)", self.name);
        connect(&self.url).await?.execute(&insert, &[&id, &balance]).await?;
        Ok([self.row(id, fenced).await?, self.row(id, fenced).await?])
    }

    pub(crate) async fn drop(self) -> Result<(), Failed> {
        Ok(connect(&self.url).await?.batch_execute(&format!("DROP TABLE {}", self.name)).await?)
    }

    async fn row(&self, id: &'static str, fenced: bool) -> Result<Arc<dyn Account>, Failed> {
        let row = Row { client: connect(&self.url).await?, table: self.name.clone(), id };
        Ok(if fenced { Arc::new(FencedRow(row)) } else { Arc::new(PlainRow(row)) })
    }
}

struct Row {
    client: Client,
    table: String,
    id: &'static str,
}

impl Row {
    /// One number of the row that a statement returns, or `None` when its condition holds for no row.
    async fn number(&self, sql: String, values: &[&(dyn ToSql + Sync)]) -> Result<Option<i64>, Refused> {
        let row = self.client.query_opt(&sql, values).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }
}

/// A row that anybody may write.
struct PlainRow(Row);

#[async_trait]
impl Account for PlainRow {
    async fn read(&self, _: Option<NonZeroU64>) -> Result<i64, Refused> {
        let Row { table, id, .. } = &self.0;
        let select = format!("SELECT balance FROM {table} WHERE id = $1");
        self.0.number(select, &[id]).await?.ok_or_else(no_row)
    }

    async fn write(&self, balance: i64, _: Option<NonZeroU64>) -> Result<(), Refused> {
        let Row { table, id, .. } = &self.0;
        let update = format!("UPDATE {table} SET balance = $1 WHERE id = $2 RETURNING balance");
        self.0.number(update, &[&balance, id]).await?.map(drop).ok_or_else(no_row)
    }
}

/// A row that compares tokens.
struct FencedRow(Row);

impl FencedRow {
    /// Why no row met the condition. Only for the words of the report: the statement itself has decided.
    async fn stale(&self) -> Refused {
        let Row { table, id, .. } = &self.0;
        let select = format!("SELECT fence FROM {table} WHERE id = $1");
        match self.0.number(select, &[id]).await {
            Ok(Some(highest)) => match u64::try_from(highest).ok().and_then(NonZeroU64::new) {
                Some(highest) => Refused::Stale { highest },
                None => Refused::Failed(format!("the row has the fencing token {highest}").into()),
            },
            Ok(None) => no_row(),
            Err(error) => error,
        }
    }
}

#[async_trait]
impl Account for FencedRow {
    /// An update, so that the holders before are refused from here on.
    async fn read(&self, fence: Option<NonZeroU64>) -> Result<i64, Refused> {
        let Row { table, id, .. } = &self.0;
        let fence = number(fence)?;
        let update = format!("UPDATE {table} SET fence = $1 WHERE id = $2 AND fence <= $1 RETURNING balance");
        match self.0.number(update, &[&fence, id]).await? {
            Some(balance) => Ok(balance),
            None => Err(self.stale().await),
        }
    }

    async fn write(&self, balance: i64, fence: Option<NonZeroU64>) -> Result<(), Refused> {
        let Row { client, table, id } = &self.0;
        let fence = number(fence)?;
        let update = format!("UPDATE {table} SET balance = $1, fence = $2 WHERE id = $3 AND fence <= $2");
        match client.execute(&update, &[&balance, &fence, id]).await? {
            0 => Err(self.stale().await),
            _ => Ok(()),
        }
    }
}

impl From<tokio_postgres::Error> for Refused {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Tokens are below 2^53, so that each has its place in a `bigint`.
fn number(fence: Option<NonZeroU64>) -> Result<i64, Refused> {
    i64::try_from(fence.ok_or_else(Refused::no_token)?.get()).map_err(|error| Refused::Failed(error.into()))
}

fn no_row() -> Refused {
    Refused::Failed("the row is gone".into())
}

async fn connect(url: &str) -> Result<Client, Failed> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // It ends with the client, and its error reaches the client's requests.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}
