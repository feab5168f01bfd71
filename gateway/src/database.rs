//! Where the gateway's database is, when it is not a file in its folder: a PostgreSQL server, by URL.
//!
//! This reads and shows such a URL; `store` connects. Nothing here repeats a password.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use url::Url;

/// What a URL may say after its `?`. Anything else is refused: a misspelt one would be passed over in silence. No
/// password: those before the `@` are not shown.
const PARAMETERS: [&str; 10] = [
    "application_name",
    "dbname",
    "host",
    // The schema that it is in, when not the database's first.
    "options[search_path]",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "user",
];
/// What stands for a password wherever a URL is shown.
const HIDDEN: &str = "***";

/// The URL of a PostgreSQL database. Shown with three stars for its password.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(Url);

/// Why a text is no URL of a database. It repeats nothing that may be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseUrlError {
    /// It cannot be read as a URL.
    #[error(
        "it is no URL ({reason}): write postgres://user:password@host/database, with %40 for @ in a password"
    )]
    NoUrl {
        /// What the reader said.
        reason: url::ParseError,
    },
    /// It is for something else.
    #[error(
        "its scheme is `{scheme}`: write postgres:// or postgresql://, or nothing for SQLite in the data folder"
    )]
    Scheme {
        /// The one that was found.
        scheme: String,
    },
    /// It does not say which server.
    #[error(
        "it names no host: write postgres://user@host/database, or postgres://user@%2Frun%2Fpostgresql/database"
    )]
    NoHost,
    /// It says something that is not known.
    #[error("it has the parameter `{name}`; known are {}", PARAMETERS.join(", "))]
    Parameter {
        /// Its name.
        name: String,
    },
}

impl DatabaseUrlError {
    /// Stable name of the kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoUrl { .. } => "database_no_url",
            Self::Scheme { .. } => "database_scheme",
            Self::NoHost => "database_no_host",
            Self::Parameter { .. } => "database_parameter",
        }
    }
}

impl FromStr for DatabaseUrl {
    type Err = DatabaseUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text.trim()).map_err(|reason| DatabaseUrlError::NoUrl { reason })?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            let scheme = url.scheme().to_owned();
            return Err(DatabaseUrlError::Scheme { scheme });
        }
        let unknown = url
            .query_pairs()
            .map(|(name, _)| name.into_owned())
            .find(|name| !PARAMETERS.contains(&name.as_str()));
        if let Some(name) = unknown {
            return Err(DatabaseUrlError::Parameter { name });
        }
        let url = Self(url);
        if url.host().is_empty() {
            return Err(DatabaseUrlError::NoHost);
        }
        Ok(url)
    }
}

impl DatabaseUrl {
    /// The server for people: its name and port, or the folder of its socket.
    pub(crate) fn server(&self) -> String {
        let port = self.parameter("port");
        let port = port.or_else(|| self.0.port().map(|port| port.to_string()));
        match port {
            Some(port) => format!("{}:{port}", self.host()),
            None => self.host(),
        }
    }

    /// What is connected to. Over a network the server proves itself with its certificate, unless the URL says in so
    /// many words that it need not: a password goes to nobody who has not.
    pub(crate) fn secured(&self) -> Url {
        let mut url = self.0.clone();
        if self.parameter("sslmode").is_none() && !self.is_on_this_machine() {
            url.query_pairs_mut().append_pair("sslmode", "verify-full");
        }
        url
    }

    fn is_on_this_machine(&self) -> bool {
        let host = self.host();
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        host.starts_with('/') || host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    fn host(&self) -> String {
        let host = self.parameter("host");
        host.unwrap_or_else(|| {
            self.0
                .host_str()
                .unwrap_or_default()
                .replace("%2F", "/")
                .replace("%2f", "/")
        })
    }

    fn parameter(&self, name: &str) -> Option<String> {
        let found = self.0.query_pairs().filter(|(key, _)| key == name);
        found.last().map(|(_, value)| value.into_owned())
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.0.clone();
        // Cannot fail for one that names a host; where it does, nothing is hidden because there is nothing.
        if url.password().is_some() && url.set_password(Some(HIDDEN)).is_err() {
            return f.write_str(HIDDEN);
        }
        url.fmt(f)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> DatabaseUrl {
        text.parse().unwrap()
    }

    #[test]
    fn a_password_is_never_shown() {
        for scheme in ["postgres", "postgresql"] {
            let url = read(&format!("{scheme}://ada:hunter2@db.example:5433/alephlab"));
            let shown = format!("{scheme}://ada:***@db.example:5433/alephlab");
            assert_eq!((url.to_string(), format!("{url:?}")), (shown.clone(), shown));
            assert_eq!(url.server(), "db.example:5433");
        }
        let bare = read("postgres://ada@db.example/alephlab");
        assert_eq!(bare.to_string(), "postgres://ada@db.example/alephlab");
    }

    #[test]
    fn what_is_no_database_of_ours_is_refused_without_repeating_it() {
        for (text, code) in [
            ("hunter2", "database_no_url"),
            ("postgres://ada:hunter2@:5432/x", "database_no_url"),
            ("mysql://ada:hunter2@db/x", "database_scheme"),
            ("sqlite:///gateway.db", "database_scheme"),
            ("postgres:///alephlab", "database_no_host"),
            ("postgres://ada@db/x?password=hunter2", "database_parameter"),
            (
                "postgres://ada:hunter2@db/x?sslmodus=require",
                "database_parameter",
            ),
        ] {
            let error = text.parse::<DatabaseUrl>().unwrap_err();
            assert_eq!(error.code(), code, "{text}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_server_elsewhere_has_to_prove_itself() {
        for (text, secured) in [
            ("postgres://ada@db.example/x", Some("verify-full")),
            ("postgres://ada@10.0.0.7/x", Some("verify-full")),
            ("postgres:///x?host=db.example&user=ada", Some("verify-full")),
            ("postgres://ada@db.example/x?sslmode=disable", Some("disable")),
            ("postgres://ada@localhost/x", None),
            ("postgres://ada@127.0.0.1:5433/x", None),
            ("postgres://ada@[::1]/x", None),
            ("postgres://ada@%2Frun%2Fpostgresql/x", None),
            ("postgres:///x?host=/run/postgresql", None),
        ] {
            let url = DatabaseUrl(read(text).secured());
            assert_eq!(url.parameter("sslmode").as_deref(), secured, "{text}");
        }
    }
}
