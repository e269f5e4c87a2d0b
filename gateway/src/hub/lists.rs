//! Lists of all servers, asked in parallel. Each server has its own deadlines; one that fails or hangs is
//! reported and missing, the others are listed.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Hub;
use crate::catalog::{self, Entry, Listing, MAX_ENTRIES};
use crate::text;
use crate::upstream::server::{Server, ask};

/// The most pages that are asked of one server: a server that always has a next page must end somewhere.
const MAX_PAGES: usize = 100;

/// The most bytes of one kind that are taken from one server. A tool with a large schema is 10 KiB; a client
/// cannot use more than some hundred tools. The merged list of many servers stays below the line limit.
const MAX_LIST_BYTES: usize = 4 * 1024 * 1024;

impl Hub {
    /// The merged result of a list request.
    pub(super) async fn list(self: &Arc<Self>, listing: Listing) -> String {
        let mut asking = JoinSet::new();
        for (index, server) in self.servers.iter().enumerate() {
            let server = Arc::clone(server);
            asking.spawn(async move { (index, list_one(&server, listing).await) });
        }
        let mut lists: Vec<Vec<Entry>> = self.servers.iter().map(|_| Vec::new()).collect();
        while let Some(joined) = asking.join_next().await {
            match joined {
                Ok((index, Ok(entries))) => self.take_list(&mut lists, listing, index, entries),
                Ok((index, Err(sentence))) => {
                    let name = self.servers.get(index).map_or("", |server| server.name());
                    self.report(name, &sentence);
                }
                Err(error) => tracing::error!(%error, "a list was not read"),
            }
        }
        catalog::merge(listing, &lists)
    }

    fn take_list(&self, lists: &mut [Vec<Entry>], listing: Listing, index: usize, entries: Vec<Entry>) {
        self.resources().learn(listing, index, &entries);
        if let Some(list) = lists.get_mut(index) {
            *list = entries;
        }
    }
}

async fn list_one(server: &Arc<Server>, listing: Listing) -> Result<Vec<Entry>, String> {
    let ready = server.ready().await.map_err(|error| error.to_string())?;
    if !ready.has(listing.capability()) {
        return Ok(Vec::new());
    }
    // A list is as cheap as a handshake, so it has the same deadline.
    let deadline = server.entry.start_timeout();
    let pages = async {
        let mut list = Vec::new();
        let mut cursor = None;
        for _ in 0..MAX_PAGES {
            let params = cursor.map_or_else(|| json!({}), |cursor: String| json!({ "cursor": cursor }));
            cursor = page(server, listing, &params, &mut list).await?;
            if cursor.is_none() {
                return Ok(list);
            }
        }
        Err(format!(
            "server `{}` answered `{}` with more than {MAX_PAGES} pages",
            server.name(),
            listing.method()
        ))
    };
    tokio::time::timeout(deadline, pages).await.unwrap_or_else(|_elapsed| {
        let seconds = deadline.as_secs_f32();
        Err(format!("server `{}` did not answer `{}` within {seconds} s", server.name(), listing.method()))
    })
}

/// Asks for one page; the cursor of the next.
async fn page(
    server: &Arc<Server>,
    listing: Listing,
    params: &Value,
    list: &mut Vec<Entry>,
) -> Result<Option<String>, String> {
    let ready = server.ready().await.map_err(|error| error.to_string())?;
    let result = match ask(&ready.connection, listing.method(), params).await {
        Ok(result) => result,
        // Most servers with resources have no templates, and say so with an error.
        Err(_) if listing == Listing::Templates && ready.connection.is_open() => return Ok(None),
        Err(error) => return Err(error),
    };
    let page = catalog::read_page(&server.entry.policy, listing, &result).map_err(|error| {
        format!("server `{}` answered `{}` with {error}", server.name(), listing.method())
    })?;
    list.extend(page.entries);
    let bytes: usize = list.iter().map(|entry| entry.json.len()).sum();
    if list.len() > MAX_ENTRIES || bytes > MAX_LIST_BYTES {
        return Err(format!(
            "server `{}` lists more `{}` than the gateway takes ({MAX_ENTRIES}, or 4 MiB)",
            server.name(),
            text::name(listing.member())
        ));
    }
    Ok(page.next_cursor)
}
