//! What settings there are.

/// Every setting with one line of explanation, in the order in which they are shown.
pub(crate) const KEYS: [(&str, &str); 65] = [
    (
        "data.dir",
        "folder of accounts, the local Aleph node, the gateway's database and logs",
    ),
    (
        "account.name",
        "account that operates the gateway and answers for its keys",
    ),
    (
        "account.passphrase_file",
        "file (mode 0600) whose first line opens keys that a passphrase locks; asked at the terminal when not set",
    ),
    (
        "gateway.port",
        "port of the gateway on 127.0.0.1; 0 takes a free one",
    ),
    (
        "gateway.listen",
        "address that the gateway listens on; another one than 127.0.0.1 needs an https gateway.public_url, whose front brings TLS",
    ),
    (
        "gateway.public_url",
        "the gateway's address as browsers and clients use it, behind a front: https://lab.example; its own when not set",
    ),
    (
        "gateway.fronts",
        "addresses of fronts (reverse proxies) whose X-Forwarded-For says who called; separated by commas in the environment",
    ),
    (
        "gateway.max_failures",
        "how many wrong tokens and signatures one address may show in a minute before it is told to wait",
    ),
    (
        "gateway.max_texts",
        "how many texts to sign one address gets in a minute",
    ),
    (
        "gateway.standby",
        "true: wait while another gateway has the data folder or the database, and take over when it ends",
    ),
    (
        "gateway.token",
        "token of the operator; made anew at each start when not set",
    ),
    (
        "gateway.database",
        "PostgreSQL for the gateway, postgres://user:password@host/database; SQLite in the data folder when not set (docs/operations.md)",
    ),
    (
        "gateway.accounts",
        "addresses that may sign in beside the accounts of this data folder; separated by commas in the environment",
    ),
    (
        "gateway.kernel_price",
        "what a kernel on this machine costs its account, in credits an hour (1 USD is 1,000,000); 0 is nothing",
    ),
    (
        "gateway.lab",
        "folder with JupyterLab's files, a Python prefix's share/jupyter, in place of what `alephlab lab install` fetched",
    ),
    (
        "gateway.max_kernels",
        "how many kernels an account may have at the same time",
    ),
    (
        "gateway.max_storage",
        "how much an account's notebooks and files may take, in bytes or such as \"20 GiB\"; 0 is no limit",
    ),
    (
        "gateway.idle_minutes",
        "after how many minutes without a cell a kernel is stopped that nobody is connected to; 0 is never",
    ),
    (
        "gateway.outlive_minutes",
        "how long kernels of `alephlab up` go on when it was killed, for the next `alephlab up` to take over; 0 ends them with it",
    ),
    (
        "gateway.keep_kernels",
        "true: stopping `alephlab up` in good order leaves kernels for that time, too",
    ),
    (
        "hosts.aleph",
        "true: kernels can be had on hosts that this gateway rents on Aleph's network, with the account that `alephlab host account` names",
    ),
    (
        "hosts.image",
        "item hash of the STORE message of the image that rented hosts boot",
    ),
    (
        "hosts.listen",
        "address on which agents of rented hosts dial in (TLS, with a certificate of the gateway's own); port 0 takes a free one",
    ),
    (
        "hosts.address",
        "the same as hosts see it, name:port; hosts.listen when not set",
    ),
    (
        "hosts.crns",
        "URL of the network's list of compute nodes; the public one when not set, or the local network's where it has hosts",
    ),
    (
        "hosts.local",
        "cards that hosts of the local network pretend to have, to try renting: they are sandboxes on this machine (needs bubblewrap); separated by commas in the environment",
    ),
    (
        "gateway.terminals",
        "whether accounts may open terminals in JupyterLab: shells as the user who started the gateway, behind the walls of isolation.sandbox",
    ),
    (
        "isolation.sandbox",
        "\"auto\": kernels and terminals of this machine run in sandboxes of bubblewrap where that works, else with limits only; \"bubblewrap\": in those or not at all; \"none\": with limits only",
    ),
    (
        "isolation.visible",
        "folders that every sandbox shows, read-only, beside the system's programs, the toolchain and the account's own folder; separated by commas in the environment",
    ),
    (
        "isolation.memory",
        "memory of a kernel with all that it starts, in bytes or such as \"8 GiB\"; 0 is no limit",
    ),
    (
        "isolation.cpu_percent",
        "processor time of a kernel, 100 is one processor; 0 is no limit; needs control groups",
    ),
    (
        "isolation.processes",
        "processes and threads of a kernel; 0 is no limit",
    ),
    (
        "isolation.open_files",
        "open files of each process of a kernel; 0 is no limit",
    ),
    (
        "isolation.tmp",
        "how much a sandbox may keep in /tmp, and as much in /dev/shm, both memory",
    ),
    (
        "oidc.issuer",
        "OpenID provider that accounts may sign in at, its issuer exactly as the provider writes it, https (docs/operations.md); none when not set",
    ),
    ("oidc.client_id", "what the provider knows this gateway by"),
    (
        "oidc.client_secret_file",
        "file (mode 0600) whose first line is the secret that the provider gave; a public client has none",
    ),
    (
        "oidc.name",
        "what the button on the sign-in page calls the provider; its host when not set",
    ),
    (
        "oidc.scopes",
        "what is asked for besides openid; a name to show comes with profile. Separated by commas in the environment",
    ),
    (
        "oidc.admit",
        "who may use the gateway of those who sign in there: \"operator\" (whom an operator admits, `alephlab account admit`) or \"everyone\", who then runs cells as the user who started the gateway",
    ),
    (
        "market.fee_points",
        "what the gateway takes of each sale of a model, in hundredths of a percent: 500 is 5 %",
    ),
    (
        "market.orders_per_hour",
        "how many models an account may buy in an hour",
    ),
    (
        "market.settle_seconds",
        "after how many seconds a purchase is settled: what was paid goes back if no key came, else it is the seller's to spend",
    ),
    (
        "receipts.post_seconds",
        "after how many seconds the root of all receipts is posted on Aleph again, when there are new ones, by the account that rents hosts; how many there are, and when, is public then; 0 is never",
    ),
    (
        "registry.verifiers",
        "addresses of verifiers whose evidence counts for a model's badge, but never for their own models; the operator's when not set; separated by commas in the environment",
    ),
    (
        "registry.follow_minutes",
        "after how many minutes messages of models that other gateways were told of are looked for on Aleph again; 0 is never",
    ),
    (
        "settlement.node",
        "URL of a node of the chain on which ALEPH is deposited and withdrawn, https or on this machine; without it neither is done (docs/operations.md)",
    ),
    (
        "settlement.chain_id",
        "which chain, as EIP-155 counts them; the node is asked",
    ),
    ("settlement.token", "address of the token's contract"),
    (
        "settlement.contract",
        "address of the contract BatchPayout that pays withdrawals; its operator is the payout key, which `alephlab wallet settlement` shows",
    ),
    (
        "settlement.deposit",
        "address at which deposits are taken; that of the gateway's own deposit key when not set",
    ),
    (
        "settlement.confirmations",
        "how many blocks lie upon one that is final; 0 where the chain says itself when a block is",
    ),
    ("settlement.minimum", "least that is paid out, in ALEPH"),
    (
        "settlement.daily",
        "most that an account has paid out in 24 hours, in ALEPH; 0 is no limit but the contract's, which is for all together",
    ),
    (
        "settlement.max_gwei",
        "most that one gas may cost for withdrawals to be paid, in gwei",
    ),
    (
        "settlement.every_seconds",
        "after how many seconds the chain is looked at again",
    ),
    (
        "settlement.rate",
        "credits for one ALEPH when it becomes compute, as long as it is set; 0 converts nothing, if there is no settlement.rate_file",
    ),
    (
        "settlement.rate_file",
        "file with that number, which somebody keeps new: a rate is refused when it was not written for an hour; seen from the data folder",
    ),
    (
        "aleph.url",
        "URL of an Aleph node, or several with commas between them, or \"local\" for the node on this machine",
    ),
    (
        "aleph.port",
        "port of the local node on 127.0.0.1; 0 takes a free one",
    ),
    (
        "aleph.cache_gib",
        "GiB of encrypted objects from nodes elsewhere that this machine keeps, so that mounting again downloads nothing; 0 keeps none",
    ),
    (
        "kernel.engine",
        "what compiles cells: \"zygote\", or \"evcxr\", slower",
    ),
    (
        "kernel.history",
        "whether consoles find what was typed in earlier kernels: the text of cells is kept in the data folder",
    ),
    (
        "runtime.dir",
        "folder of the built runtime; chosen by the content of its sources when not set",
    ),
    (
        "runtime.source",
        "folder of Alephlab's sources; found from the program when not set",
    ),
];
