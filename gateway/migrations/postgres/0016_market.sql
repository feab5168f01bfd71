-- As sqlite/0016_market.sql.

ALTER TABLE ledger_accounts
    DROP CONSTRAINT ledger_accounts_kind_check,
    DROP CONSTRAINT ledger_accounts_check,
    DROP CONSTRAINT ledger_accounts_check1,
    ADD CONSTRAINT ledger_accounts_kind_check CHECK (kind IN ('wallet', 'pending', 'issued', 'revenue', 'fee', 'custody', 'payouts', 'suspense', 'exchange')),
    ADD CONSTRAINT ledger_accounts_owner_check CHECK (kind = 'pending' OR (kind = 'wallet') = (owner <> 'gateway')),
    ADD CONSTRAINT ledger_accounts_owes_check CHECK (kind IN ('issued', 'custody', 'exchange') OR debits <= credits);

ALTER TABLE entries
    DROP CONSTRAINT entries_kind_check,
    DROP CONSTRAINT entries_check,
    ADD CONSTRAINT entries_kind_check CHECK (kind IN ('credit', 'charge', 'deposit', 'sale', 'royalty', 'fee', 'use', 'refund', 'release',
                                                      'convert', 'withdraw', 'settle', 'return')),
    ADD CONSTRAINT entries_used_check CHECK (hold IS NOT NULL OR kind NOT IN ('charge', 'use')),
    ADD CONSTRAINT entries_hold_check CHECK (hold IS NULL OR kind IN ('charge', 'use', 'royalty', 'fee'));

CREATE INDEX entries_by_hold ON entries (hold, seq) WHERE hold IS NOT NULL;
