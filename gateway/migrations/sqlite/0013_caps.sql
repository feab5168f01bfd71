-- What is set aside for a kernel can be raised while it runs, and never lowered: until now it was fixed with the price.

DROP TRIGGER holds_only_grow;

CREATE TRIGGER holds_only_grow BEFORE UPDATE ON holds
WHEN NEW.charged < OLD.charged OR NEW.seconds < OLD.seconds OR NEW.amount < OLD.amount OR NEW.price <> OLD.price
BEGIN SELECT RAISE(ABORT, 'what was charged and set aside becomes no less, at the price that was said'); END;
