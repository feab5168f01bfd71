//! What each route asks of a token: the one place. What is not named here is for tokens that may do all.
//!
//! Enforced where a request becomes an [`crate::auth::Account`], so no route that acts for an account can leave it out. Routes
//! without an account are open, or are opened by a kernel's token, a share's or an agent's, which have no scope.
//! `tests/routes.txt` says the same for all routes, and tests compare.

use alephlab_api::token::Scope;
use axum::http::Method;

/// Routes whose GET only looks.
const LOOKS: [&str; 63] = [
    // Open to all; who shows a token is shown as such.
    "/models",
    "/models/{owner}/{name}",
    "/models/{owner}/{name}/{tab}",
    "/publish",
    "/shares",
    "/shares/new",
    "/shares/{uuid}/revoke",
    "/datasets",
    "/buy/{owner}/{name}",
    "/sell/{owner}/{name}",
    "/orders/{id}",
    "/earnings",
    "/receipts",
    "/receipts/{sequence}",
    "/wallet",
    "/settings",
    // An operator's, which is a token of scope admin.
    "/settings/accounts",
    // Names and days only.
    "/settings/secrets",
    "/kernels",
    "/kernels/new",
    "/kernels/{id}/stop",
    "/kernels/{id}/cap",
    "/lab",
    "/lab/",
    "/lab/tree",
    "/lab/tree/{*path}",
    "/lab/workspaces/{*path}",
    "/api/status",
    "/api/me",
    "/api/kernelspecs",
    "/api/kernelspecs/{name}",
    "/api/kernels",
    "/api/kernels/{id}",
    "/api/sessions",
    "/api/sessions/{id}",
    "/api/contents",
    "/api/contents/",
    "/api/contents/{*path}",
    "/files/{*path}",
    "/lab/api/settings",
    "/lab/api/settings/",
    "/lab/api/settings/{*id}",
    "/lab/api/workspaces",
    "/lab/api/workspaces/",
    "/lab/api/workspaces/{*id}",
    "/lab/api/translations",
    "/lab/api/translations/",
    "/lab/api/translations/{locale}",
    "/lab/api/listings/{*path}",
    "/lab/api/licenses/",
    "/api/config/{section}",
    "/api/nbconvert",
    "/api/terminals",
    "/api/terminals/{name}",
    "/lsp/status",
    "/api/events/subscribe",
    "/v1/whoami",
    "/v1/models",
    "/v1/offers",
    "/v1/allocations",
    "/v1/kernels/{id}/cap",
    "/v1/load",
    "/v1/shares",
];

/// Forms whose answer is a command to copy, and that change nothing.
const PREPARES: [&str; 4] = ["/publish", "/sell/{owner}/{name}", "/shares/new", "/datasets"];

/// What an account has and had, also for a token that only looks.
const MONEY: [&str; 12] = [
    "/v1/balance",
    "/v1/conversions",
    "/v1/deposit",
    "/v1/earnings",
    "/v1/ledger",
    "/v1/orders",
    "/v1/orders/{id}",
    "/v1/purchases",
    "/v1/receipts",
    "/v1/receipts/{id}",
    "/v1/sales",
    "/v1/withdrawals",
];

/// What a person does with kernels and notebooks.
const RUNS: [(&str, &str); 28] = [
    // A notebook in its folder.
    ("POST", "/models/{owner}/{name}/notebook"),
    ("POST", "/m/{uuid}/notebook"),
    ("POST", "/kernels/new"),
    ("POST", "/kernels/{id}/stop"),
    ("POST", "/kernels/{id}/cap"),
    ("POST", "/api/kernels"),
    ("DELETE", "/api/kernels/{id}"),
    ("POST", "/api/kernels/{id}/interrupt"),
    ("POST", "/api/kernels/{id}/restart"),
    // Cells go through it.
    ("GET", "/api/kernels/{id}/channels"),
    ("POST", "/api/terminals"),
    ("DELETE", "/api/terminals/{name}"),
    ("GET", "/terminals/websocket/{name}"),
    // A kernel that costs something is started by it.
    ("POST", "/v1/quotes"),
    // And may cost more by it.
    ("PUT", "/v1/kernels/{id}/cap"),
    ("POST", "/api/sessions"),
    ("PATCH", "/api/sessions/{id}"),
    ("DELETE", "/api/sessions/{id}"),
    ("POST", "/api/contents"),
    ("POST", "/api/contents/"),
    ("PUT", "/api/contents/{*path}"),
    ("PATCH", "/api/contents/{*path}"),
    ("POST", "/api/contents/{*path}"),
    ("DELETE", "/api/contents/{*path}"),
    ("PUT", "/lab/api/settings/{*id}"),
    ("PUT", "/lab/api/workspaces/{*id}"),
    ("DELETE", "/lab/api/workspaces/{*id}"),
    ("PATCH", "/api/config/{section}"),
];

/// The narrowest scope that opens a route.
pub(crate) fn asked(method: &Method, route: Option<&str>) -> Scope {
    let Some(route) = route else {
        return Scope::Admin;
    };
    // A HEAD is a GET of which only the headers are sent.
    let method = if *method == Method::HEAD {
        Method::GET.as_str()
    } else {
        method.as_str()
    };
    if method == "GET" && (LOOKS.contains(&route) || MONEY.contains(&route))
        || method == "POST" && PREPARES.contains(&route)
    {
        Scope::Read
    } else if RUNS.contains(&(method, route)) {
        Scope::Run
    } else {
        Scope::Admin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/routes.txt`: the tests that ask over HTTP read the same.
    fn table() -> Vec<(Method, &'static str, &'static str)> {
        let lines = include_str!("../tests/routes.txt").lines();
        lines
            .filter(|line| !line.starts_with('#'))
            .map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
                [method, route, opens] => (method.parse().unwrap(), route, opens),
                _ => panic!("{line}"),
            })
            .collect()
    }

    #[test]
    fn each_route_asks_for_what_the_table_says_and_what_it_does_not_say_for_all() {
        for (method, route, opens) in table() {
            if let Ok(scope) = opens.trim_end_matches("+sign-in").parse::<Scope>() {
                assert_eq!(asked(&method, Some(route)), scope, "{method} {route}");
            }
        }
        assert_eq!(asked(&Method::HEAD, Some("/api/kernels")), Scope::Read);
        for (method, route) in [
            (Method::GET, None),
            (Method::GET, Some("/api/new")),
            (Method::POST, Some("/api/status")),
            (Method::PUT, Some("/api/kernels")),
        ] {
            assert_eq!(asked(&method, route), Scope::Admin, "{method} {route:?}");
        }
    }

    #[test]
    fn the_table_has_every_route_of_the_router() {
        let mut table: Vec<String> = table()
            .iter()
            .map(|(method, route, _)| format!("{method} {route}"))
            .collect();
        table.sort();
        assert_eq!(table, crate::routes::tests::all());
    }
}
