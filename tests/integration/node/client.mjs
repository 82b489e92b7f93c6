// What the official ClickHouse client for Node sees of a server, as one JSON object on stdout.
// Arguments: URL, user, password, database (exists, empty).
import { createClient } from "@clickhouse/client";

const [url, username, password, database] = process.argv.slice(2);
const client = createClient({ url, username, password, database, compression: { response: true } });
// A server breaks the connection after an error in the middle of a result; a client that is still
// unpacking may then report the break instead of the error.
const plain = createClient({ url, username, password, database });
const seen = {};

seen.ping = (await client.ping()).success;

await client.command({
  query: "CREATE TABLE rows (n UInt64, name String) ENGINE = MergeTree ORDER BY n",
});
const rows = Array.from({ length: 100000 }, (_, n) => ({ n, name: `it's ${n}` }));
await client.insert({ table: "rows", values: rows, format: "JSONEachRow" });

const bound = await client.query({
  query: "SELECT n, name FROM rows WHERE n = {n: UInt64} AND name = {name: String}",
  query_params: { n: 7, name: "it's 7" },
  format: "JSONEachRow",
  clickhouse_settings: { output_format_json_quote_64bit_integers: 0 },
});
seen.bound = await bound.json();

const whole = await client.query({ query: "SELECT count() AS rows FROM rows", format: "JSON" });
seen.queryId = whole.query_id.length > 0;
seen.whole = (await whole.json()).data;

const streamed = await client.query({
  query: "SELECT n FROM rows ORDER BY n",
  format: "JSONCompactEachRow",
});
seen.chunks = 0;
seen.streamed = 0;
seen.sum = 0;
for await (const chunk of streamed.stream()) {
  seen.chunks += 1;
  for (const row of chunk) {
    seen.streamed += 1;
    seen.sum += Number(row.json()[0]);
  }
}

async function errorOf(query) {
  try {
    const result = await plain.query({ query, format: "JSONEachRow" });
    for await (const _ of result.stream());
    return "none";
  } catch (error) {
    return { code: error.code, type: error.type };
  }
}
seen.unknownTable = await errorOf("SELECT * FROM no_such_table");
seen.midStream = await errorOf("SELECT throwIf(number = 900000) FROM numbers(1000000)");

const reader = createClient({ url, username: "reader", database });
seen.readerRows = await (
  await reader.query({ query: "SELECT count()::UInt32 AS n FROM rows", format: "JSONEachRow" })
).json();
try {
  await reader.insert({ table: "rows", values: [{ n: 1, name: "x" }], format: "JSONEachRow" });
} catch (error) {
  seen.readerInsert = { code: error.code, type: error.type };
}

await reader.close();
await plain.close();
await client.close();
console.log(JSON.stringify(seen));
