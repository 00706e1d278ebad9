-- What the ledger is compared with: the same accounts, holds and journal, as a careful application
-- would keep them in PostgreSQL. A pair is one call of reserve() and one of post(), each of which
-- writes a row of the journal. Half-empty pages let updates stay on their page.

CREATE TABLE accounts (
  id bigint PRIMARY KEY,
  is_bounded boolean NOT NULL,
  debits_posted bigint NOT NULL DEFAULT 0,
  debits_pending bigint NOT NULL DEFAULT 0,
  credits_posted bigint NOT NULL DEFAULT 0,
  credits_pending bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE holds (
  id bigint PRIMARY KEY,
  debit bigint NOT NULL,
  credit bigint NOT NULL,
  amount bigint NOT NULL,
  expires bigint NOT NULL,
  -- What was posted of it, once it was.
  posted bigint
) WITH (fillfactor = 50);

CREATE TABLE journal (
  sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now(),
  hold bigint NOT NULL,
  is_post boolean NOT NULL,
  debit bigint NOT NULL,
  credit bigint NOT NULL,
  amount bigint NOT NULL
);

INSERT INTO accounts (id, is_bounded, credits_posted)
  SELECT 1000000 + number, true, 1000000000000 FROM generate_series(0, 999) AS number;
INSERT INTO accounts (id, is_bounded)
  SELECT 2000000 + number, false FROM generate_series(0, 99) AS number;

CREATE FUNCTION reserve(
  hold bigint, debited bigint, credited bigint, wanted bigint, until bigint
) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO holds (id, debit, credit, amount, expires)
    VALUES (hold, debited, credited, wanted, until) ON CONFLICT DO NOTHING;
  IF NOT FOUND THEN
    PERFORM FROM holds WHERE id = hold
      AND (debit, credit, amount, expires) = (debited, credited, wanted, until);
    RETURN CASE WHEN FOUND THEN 'replayed' ELSE 'conflict' END;
  END IF;
  UPDATE accounts SET debits_pending = debits_pending + wanted
    WHERE id = debited
    AND (NOT is_bounded OR debits_posted + debits_pending + wanted <= credits_posted);
  IF NOT FOUND THEN
    DELETE FROM holds WHERE id = hold;
    RETURN 'exceeds credits';
  END IF;
  UPDATE accounts SET credits_pending = credits_pending + wanted WHERE id = credited;
  INSERT INTO journal (hold, is_post, debit, credit, amount)
    VALUES (hold, false, debited, credited, wanted);
  RETURN 'done';
END $$;

CREATE FUNCTION post(hold bigint, wanted bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  held holds;
BEGIN
  UPDATE holds SET posted = wanted
    WHERE id = hold AND posted IS NULL AND amount >= wanted
    AND expires > extract(epoch FROM now())
    RETURNING * INTO held;
  IF NOT FOUND THEN
    PERFORM FROM holds WHERE id = hold AND posted = wanted;
    RETURN CASE WHEN FOUND THEN 'replayed' ELSE 'refused' END;
  END IF;
  UPDATE accounts SET debits_pending = debits_pending - held.amount,
    debits_posted = debits_posted + wanted WHERE id = held.debit;
  UPDATE accounts SET credits_pending = credits_pending - held.amount,
    credits_posted = credits_posted + wanted WHERE id = held.credit;
  INSERT INTO journal (hold, is_post, debit, credit, amount)
    VALUES (hold, true, held.debit, held.credit, wanted);
  RETURN 'done';
END $$;
