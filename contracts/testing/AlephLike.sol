// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// For tests only: an ordinary token of 18 decimals, of which the deployer has as much as there is of ALEPH.
contract AlephLike is ERC20, ERC20Permit {
    constructor() ERC20("Not ALEPH", "TEST") ERC20Permit("Not ALEPH") {
        _mint(msg.sender, 500_000_000 ether);
    }
}
