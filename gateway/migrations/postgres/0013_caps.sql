-- As sqlite/0013_caps.sql.

DROP TRIGGER holds_only_grow ON holds;

CREATE TRIGGER holds_only_grow BEFORE UPDATE ON holds FOR EACH ROW
WHEN (NEW.charged < OLD.charged OR NEW.seconds < OLD.seconds OR NEW.amount < OLD.amount OR NEW.price <> OLD.price)
EXECUTE FUNCTION refuse('what was charged and set aside becomes no less, at the price that was said');
