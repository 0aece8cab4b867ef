# A NixOS machine with a homeserver behind nginx: add it to the imports of your configuration and change the names.
{ config, pkgs, ... }:

let
  server = config.services.matrix-conduit.settings.global;
  upstream = "http://[${server.address}]:${toString server.port}";
in
{
  services.matrix-conduit = {
    enable = true;
    package = pkgs.callPackage ./package.nix { };
    # Secrets do not belong into the Nix store, which everybody on the machine can read. This file holds
    # CONDUIT_REGISTRATION_TOKEN=a text that is hard to guess
    secretFile = "/var/keys/conduit.env";
    settings.global = {
      server_name = "example.org";
      database_backend = "rocksdb";
      allow_registration = true;
      # Other servers and clients find this one through https://example.org/.well-known/matrix/.
      well_known.client = "https://matrix.example.org";
      well_known.server = "matrix.example.org:443";
    };
  };

  services.nginx = {
    enable = true;
    recommendedProxySettings = true;
    recommendedGzipSettings = true;
    clientMaxBodySize = "20M";
    virtualHosts = {
      "matrix.example.org" = {
        forceSSL = true;
        enableACME = true;
        # Long polls wait for half a minute, joining a large room for longer.
        locations."/" = {
          proxyPass = upstream;
          extraConfig = "proxy_read_timeout 600;";
        };
      };
      "example.org" = {
        forceSSL = true;
        enableACME = true;
        locations."/.well-known/matrix/".proxyPass = upstream;
      };
    };
  };

  networking.firewall.allowedTCPPorts = [ 80 443 ];
}
