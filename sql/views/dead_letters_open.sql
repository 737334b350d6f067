-- Refused items that nobody has replayed or dropped yet.
SELECT *
FROM dead_letters
WHERE (segment, position) GLOBAL NOT IN (SELECT segment, position FROM dead_letter_marks FINAL)
