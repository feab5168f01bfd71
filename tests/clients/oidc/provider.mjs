// An OpenID provider by others (the npm package oidc-provider, certified): everybody signs in with any name and any password.
// Prints its issuer, reads the address that its one client comes back to, and serves.
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import Provider from "oidc-provider";

// Another site than the gateway's 127.0.0.1, as a browser sees it.
const server = createServer().listen(0, "localhost", () => {
  const issuer = `http://localhost:${server.address().port}`;
  console.log(issuer);
  createInterface({ input: process.stdin }).once("line", (back) => {
    const provider = new Provider(issuer, {
      clients: [{ client_id: "alephlab", client_secret: process.env.CLIENT_SECRET, redirect_uris: [back] }],
      claims: { openid: ["sub"], profile: ["preferred_username"] },
      // Many providers put the name into the ID token; the gateway asks for nothing else.
      conformIdTokenClaims: false,
      findAccount: (_, id) => ({
        accountId: id,
        claims: () => ({ sub: id, preferred_username: `${id} of the office` }),
      }),
      cookies: { keys: ["only for tests"] },
      ttl: { Session: 3600, Grant: 3600, Interaction: 3600 },
    });
    server.on("request", provider.callback());
    console.log("serves");
  });
});
